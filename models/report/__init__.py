"""Reports about bundles and full models: figures, tables, pages and pictures."""
