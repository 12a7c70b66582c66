"""The example that plays a real purchase log holds what it says: in process and on Kafka the same decisions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from config.load import check_directory
from examples.cdnow.play import CONFIG, decide_in_process, fetch_log, signals_of

ROOT = Path(__file__).parents[2]
LOG = """ customer_id  date number_of_cds  dollar_value
 00001 19970101  1   11.77
 00002 19970112  1   12.00
 00002 19970112  5   77.00
 00003 19970102  2   20.76
 00002 19970301  1   10.00
"""


def test_configuration_is_in_order():
    """It checks without a fault, and its cases pass."""
    checked = check_directory(CONFIG)
    assert (checked.faults, checked.cases_run > 0) == ((), True)


def test_rows_of_one_day_are_one_order():
    """Signals come in the order of time, one per customer and day, with the day's sum."""
    signals = [json.loads(each) for each in signals_of(LOG, customers=2)]
    assert [(each["userId"], each["timestamp"][:10]) for each in signals] == [
        ("00001", "1997-01-01"),
        ("00002", "1997-01-12"),
        ("00002", "1997-03-01"),
    ]
    assert signals[1]["properties"] == {"revenue": 89.0, "quantity": 6}


def test_first_purchase_earns_a_voucher():
    """The repertoire decides something a person would expect."""
    repertoire = check_directory(CONFIG).repertoire
    assert repertoire is not None
    decisions = [json.loads(each) for each in decide_in_process(list(signals_of(LOG, 3)), repertoire).values()]
    first = [each for each in decisions if each["customerId"] == "00001"]
    assert [each["action"] for each in first] == ["second-cd-voucher"]


@pytest.mark.slow
def test_the_real_log_has_the_purchases_it_should():
    """What the package carries is the log the example speaks of."""
    log = fetch_log()
    assert len(log.splitlines()) == 69_660
    assert len(list(signals_of(log, 23_570))) == 67_591


@pytest.mark.slow
@pytest.mark.broker
def test_kafka_and_process_decide_the_same():
    """Run as its reader would run it: exit code 0 means every decision is the same, byte for byte."""
    command = [sys.executable, str(ROOT / "examples" / "cdnow" / "play.py"), "--customers", "1000"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    in_process = int(result.stdout.split(" decisions in process")[0].split()[-1])
    assert in_process > 1500
    assert f"{in_process} decisions on Kafka, {in_process} of them byte for byte the same" in result.stdout
