"""A content delivery network in front of the node: redirects to signed URLs, and what it must
purge.
"""

from shipline.server.cdn.purges import PurgeList, purge_routes
from shipline.server.cdn.redirects import Cdn
from shipline.server.cdn.section import CdnSection
