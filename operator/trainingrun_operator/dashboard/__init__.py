"""The web dashboard: shows runs and stops them, every call with the token of the person who looks. It has no rights of its own."""
