"""The contract's messages and the state's values, both ways; nothing here decides anything."""
