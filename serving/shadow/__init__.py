"""The shadow audit: a share of the live answers is judged by Certify in idle time, and the inputs are watched."""
