"""`python -m odradek.node`: the same as `odradek node`."""

from odradek.node.command import app

if __name__ == "__main__":
    app(prog_name="odradek node")
