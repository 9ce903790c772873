"""Kinds of workload: how each is read, and what starts, suspends, resumes and ends it. One adapter per module."""
