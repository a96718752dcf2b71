"""The base install of the package: the contract with pydantic alone."""

import subprocess
import sys

PROGRAM = """
import importlib.metadata, pkgutil, sys

allowed = {"pydantic", "pydantic_core", "typing_extensions", "typing_inspection", "annotated_types"}
installed = {name for name in importlib.metadata.packages_distributions()} - allowed - {"trainingtask_api"}

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in installed:
            raise ImportError(f"{name} is not in the base install")

sys.meta_path.insert(0, Block())
import trainingtask_api

modules = {module.name for module in pkgutil.iter_modules(trainingtask_api.__path__)} - {"bounded_http"}  # of extras
for name in modules:
    importlib.import_module(f"trainingtask_api.{name}")
print(len(modules))
"""


def test_every_module_of_the_contract_imports_with_pydantic_alone() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10
