#!/usr/bin/env python3
"""Runs inside the guest that tools/vm boots: scenarios on real block devices of a real kernel.

Two servers are two network namespaces with a daemon and a RAM disk each. A scenario is a function below whose name
begins with `scenario_`; it raises when something is wrong. Prints a line with the result and the time of each.
"""

import json
import pathlib
import sys
import time
import traceback

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import beside  # noqa: E402
import devices  # noqa: E402
import groups  # noqa: E402
import troubles  # noqa: E402
from pair import kernel_errors, pairs, reset  # noqa: E402

MODULES = [devices, groups, troubles, beside]


def scenarios():
    found = {}
    for module in MODULES:
        for name, function in vars(module).items():
            if name.startswith("scenario_"):
                found[name.removeprefix("scenario_")] = function
    return found


def main(names):
    known = scenarios()
    if names == ["--list"]:
        for name, function in known.items():
            wants = {"kernel": "6.12", "memory": "3G", "disks": 0, "disk_size": 0, "quick": False}
            wants.update({key: getattr(function, key) for key in wants if hasattr(function, key)})
            print(json.dumps({"name": name, "about": (function.__doc__ or "").splitlines()[0], **wants}))
        return 0
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no such scenario: {', '.join(unknown)}")
        return 2
    names = names or list(known)
    for index, name in enumerate(names):
        print(f"== {name}", flush=True)
        began, logged = time.monotonic(), len(kernel_errors())
        try:
            known[name]()
            new = kernel_errors()[logged:]
            if new and not getattr(known[name], "expects_errors", False):
                raise AssertionError("the kernel's log has errors:\n" + "\n".join(new))
        except Exception:
            traceback.print_exc(file=sys.stdout)
            for pair in pairs:
                pair.show()
            print(f"FAILED {name} ({time.monotonic() - began:.1f} s)", flush=True)
            # What it left behind may hang: the others get a fresh kernel.
            print("guest-left " + " ".join(names[index + 1:]), flush=True)
            return 1
        reset()
        print(f"passed {name} ({time.monotonic() - began:.1f} s)", flush=True)
    return 0


sys.exit(main(sys.argv[1:]))
