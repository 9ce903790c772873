"""HTTP to the API server, for the operator and the dashboard: where it is, and how one request is made."""
