"""The pages of results, docs/results/*.md, and the table of results in the README, rendered from kept JSON files."""
