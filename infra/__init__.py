"""What it runs on: profiles, images, servers, work pools, clusters, storage, dashboards."""
