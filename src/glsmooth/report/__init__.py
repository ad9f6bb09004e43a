"""Reports of certify runs: tables, pictures, and a page that holds both."""
