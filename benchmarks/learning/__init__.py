"""How well the engine learns: the same data for the engine and for what others offer.

    python -m benchmarks.learning [SECTION …]           writes `benchmarks/results/learning.json` and `learning.md`
    python -m benchmarks.learning --own FILE.csv        plays a classification set of one's own, last column the class

Sections: `instant` and `delayed` (classification sets as bandits with full information, rewards at once and days
later), `drifting` (a simulator whose weights move), `cdnow` (a repeat purchase foretold, labels late), `scoring` (what
it costs) and `estimators` (off-policy estimates against known anchors).

Everybody is given the same rows in the same order and hears the same rewards; peers get features that were
standardised for them, the engine gets them raw. Their best is whoever is best on that stream in hindsight.
"""
