"""One client of the torture test: works on the volume while it is mounted here, and notes, outside the volume, when
each operation began (`I number kind key value time`) and how it ended (`R number ok|fail value time`).

Arguments: name of the client, file for the notes, the first number. Times are CLOCK_MONOTONIC, the same on all nodes
of one machine. An operation that failed or never ended may have happened or not."""
import mmap, os, random, sqlite3, sys, time

name, notes, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
base = "/replicated/torture"
out = open(notes, "a", buffering=1)
page = mmap.mmap(-1, 4096)


def append(key, value):
    with open(f"{base}/log-{key}", "a") as file:
        file.write(value + "\n")
        file.flush()
        os.fsync(file.fileno())


def put(key, value):
    fd = os.open(f"{base}/reg-{key}", os.O_WRONLY)
    try:
        os.pwrite(fd, value.ljust(64).encode(), 0)
        os.fsync(fd)
    finally:
        os.close(fd)


def get(key, _):
    # Past the kernel's cache: the daemon has to answer, and may not when it lost the right to.
    fd = os.open(f"{base}/reg-{key}", os.O_RDONLY | os.O_DIRECT)
    try:
        got = os.preadv(fd, [page], 0)
        return page[: min(got, 64)].decode().strip()
    finally:
        os.close(fd)


def deliver(key, value):
    temporary = f"{base}/new-{name}"
    with open(temporary, "w") as file:
        file.write(value)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, f"{base}/box-{key}")
    fd = os.open(base, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def insert(key, value):
    base_file = sqlite3.connect(f"{base}/rows-{key}.db", timeout=5)
    try:
        # FULL does not sync the folder when it removed the journal: a commit may be rolled back by the next crash.
        base_file.execute("PRAGMA synchronous=EXTRA")
        with base_file:
            base_file.execute("INSERT INTO rows VALUES (?)", (value,))
    finally:
        base_file.close()


KINDS = [append, put, get, deliver, put, get, insert]

while True:
    # On the secondary the folder under the mount point is empty.
    if not os.path.isdir(base):
        time.sleep(0.05)
        continue
    act, key = KINDS[number % len(KINDS)], f"{name[-1]}{random.randrange(3)}"
    value = f"{name}-{number}"
    out.write(f"I {number} {act.__name__} {key} {value} {time.monotonic():.6f}\n")
    try:
        answer = act(key, value) or value
        out.write(f"R {number} ok {answer} {time.monotonic():.6f}\n")
    except (OSError, sqlite3.Error, UnicodeDecodeError, ValueError) as error:
        word = str(error).replace(" ", "_") or type(error).__name__
        out.write(f"R {number} fail {word} {time.monotonic():.6f}\n")
        time.sleep(0.05)
    number += 1
    time.sleep(0.004)
