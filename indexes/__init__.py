"""The engine: what can be searched, and how it is stored. Imports nothing of ingest or ragsvc."""
