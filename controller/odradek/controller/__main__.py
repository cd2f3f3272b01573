"""`python -m odradek.controller`: the same as `odradek controller`."""

from odradek.controller.command import app

if __name__ == "__main__":
    app(prog_name="odradek controller")
