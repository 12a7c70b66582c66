"""The imperative shell: what touches Kafka, the network, the clock or a terminal. May import all packages."""
