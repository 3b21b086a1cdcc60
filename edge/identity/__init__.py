"""Patients and orders as the systems know them that are the source of truth, and checks of images against them.

Pure: values and decisions. The rows are in edge.store (`known_patients`, `orders`, `identity_checks`).
"""
