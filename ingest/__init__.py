"""From a watched place to the catalogue and the indexes. Imports indexes, never ragsvc."""
