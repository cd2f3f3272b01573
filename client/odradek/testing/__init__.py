"""A real small cluster for the tests of a service: see `plugin`."""
