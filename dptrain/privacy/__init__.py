"""What is proved: accountants, calibration, the ledger, the statement in numbers."""
