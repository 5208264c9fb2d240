"""`heatserve report`: one HTML page of all kept results, which loads nothing else."""
