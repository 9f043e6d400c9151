import pytest

pytest.register_assert_rewrite("tests.faults.row")  # its assertions show their values, as those of a test do
