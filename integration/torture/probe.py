"""Notes when this node has the service address: a program can bind to an address only while its machine has it.

Arguments: the address, file for the notes. `U time` it has it, `H time` still, `D time` it was there for the last time.
Looks every 20 ms."""
import socket, sys, time

address, notes = sys.argv[1], sys.argv[2]
out = open(notes, "a", buffering=1)
had, noted = None, 0.0
while True:
    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        # Its moment is taken before the question for the first time, after it for the last: never more than is true.
        probe.bind((address, 0))
        now = time.monotonic()
        if had is None:
            out.write(f"U {now:.6f}\n")
            noted = now
        elif now - noted > 0.2:
            out.write(f"H {now:.6f}\n")
            noted = now
        had = now
    except OSError:
        if had is not None:
            out.write(f"D {had:.6f}\n")
        had = None
    finally:
        probe.close()
    time.sleep(0.02)
