"""The benchmarks behind `mercato bench`: each prints a table with its budget and a reference timed in the same run."""
