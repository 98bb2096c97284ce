"""What it runs on: profiles, servers, service units."""
