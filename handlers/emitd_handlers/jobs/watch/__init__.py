"""Who watches jobs: one job, many by a filter, and changes that other replicas made."""
