"""The endpoints of the distribution protocol."""

from shipline.server.routes.blobs import blob_routes, upload_routes
from shipline.server.routes.listings import listing_routes
from shipline.server.routes.manifests import manifest_routes
from shipline.server.routes.operations import operation_routes
