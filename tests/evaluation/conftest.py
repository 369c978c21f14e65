from tests.circuits.conftest import unchecked as unchecked
