"""The commands of `heatserve`, one file each; heavy imports stay inside the functions, so that `--help` is quick."""
