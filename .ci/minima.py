"""The oldest release that pyproject.toml declares for each dependency, as a pip constraints file;
packages that are named as arguments are left out.

pip's own copies of packaging and tomli read it, so that a fresh environment can run this.
"""

import sys
from pathlib import Path

from pip._vendor import tomli
from pip._vendor.packaging.requirements import Requirement

project = tomli.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
declared = list(project["dependencies"])
for extra in project["optional-dependencies"].values():
    declared += extra
oldest: dict[str, str] = {}
for text in declared:
    requirement = Requirement(text)
    if requirement.marker is not None and not requirement.marker.evaluate():
        continue
    for bound in requirement.specifier:
        if bound.operator == ">=":
            oldest[requirement.name] = bound.version
for name in sys.argv[1:]:
    if oldest.pop(name, None) is None:
        sys.exit(f"pyproject.toml declares no lower bound of {name}")
if not oldest:
    sys.exit("pyproject.toml declares no lower bound")
print("\n".join(f"{name}=={version}" for name, version in sorted(oldest.items())))
