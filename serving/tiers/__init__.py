"""The tiers beside a served model: confirm, certify and cascade in Triton, and the process that takes their votes."""
