"""What the clients in Python share: the arguments that `compare` gives, and what this process has used."""

import argparse
import resource


def arguments():
    """The work, as `compare` writes it."""
    parser = argparse.ArgumentParser()
    for name, kind in (("port", int), ("addresses", int), ("path", str), ("requests", int), ("concurrency", int),
                       ("rate", float), ("certificate", str), ("dripping", int), ("settle-ms", int)):
        parser.add_argument(f"--{name}", type=kind)
    for name in ("fresh", "ticker", "follow"):
        parser.add_argument(f"--{name}", action="store_true")
    args = parser.parse_args()
    if args.rate or args.certificate or args.dripping or args.ticker:
        parser.error("it takes part in plain work only")
    return args


def memory(name):
    """A line of the status of this process, in KB."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name))


def cpu_seconds(who=resource.RUSAGE_SELF):
    """CPU time until now, user's and system's."""
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime
