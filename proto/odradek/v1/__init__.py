"""The contract: messages and services as generated from the .proto files beside this one."""
