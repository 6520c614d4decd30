"""CARRY OUT: thin adapters that turn whoever holds memory into the ``Reclaimer`` port."""
