"""The neural pitch estimators' networks, under the names of their published weights."""
