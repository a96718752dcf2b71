"""The HTTP server around the routes: limits, headers, errors and Swagger UI."""
