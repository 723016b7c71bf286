# A CDN edge of Varnish 6 or newer for a shipline node with `registry.cdn.form: shipline`. Varnish
# asks the node about each signed URL once (HEAD), keeps the answer until the URL expires, and keeps
# the content by its path. URLs that are bound to an address are asked about each time.

vcl 4.1;

backend registry {
    .host = "registry.example.com";
    .port = "5000";
}

sub vcl_recv {
    unset req.http.Authorization;
    unset req.http.Cookie;
    if (req.method != "GET" && req.method != "HEAD") {
        return (synth(405));
    }
    if (req.url !~ "^/v2/.+/blobs/sha(256|512):[0-9a-f]+\?") {
        return (synth(404));
    }
    if (req.restarts == 0) {
        set req.http.X-Step = "verify";
        set req.http.X-Query = regsub(req.url, "^[^?]*", "");
    } else {
        set req.url = regsub(req.url, "\?.*$", "");
    }
    return (hash);
}

sub vcl_hash {
    hash_data(req.http.X-Step);
    hash_data(req.url);
    return (lookup);
}

sub vcl_backend_fetch {
    if (bereq.http.X-Step == "verify") {
        set bereq.method = "HEAD";
    } else {
        set bereq.url = bereq.url + bereq.http.X-Query;
    }
    unset bereq.http.X-Step;
    unset bereq.http.X-Query;
}

sub vcl_backend_response {
    set beresp.grace = 0s;  # nothing is valid after its expiry
    set beresp.keep = 0s;
    if (bereq.method == "GET" && beresp.status == 200) {
        set beresp.ttl = 365d;  # content by digest; who may have it was asked before
        return (deliver);
    }
}

sub vcl_deliver {
    if (req.http.X-Step == "verify") {
        if (resp.status != 200) {
            return (deliver);
        }
        set req.http.X-Step = "content";
        return (restart);
    }
    set resp.http.X-Cache = "MISS";
    if (obj.hits > 0) {
        set resp.http.X-Cache = "HIT";
    }
}
