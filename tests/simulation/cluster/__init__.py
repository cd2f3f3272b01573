"""The production cores of controller, leader, follower, groups and idempotence, as one cluster."""
