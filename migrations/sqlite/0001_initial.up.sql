-- Times are microseconds since 1970 (UTC). Identities are text. Nothing here holds a secret's value in the clear.

CREATE TABLE workspace (
    workspace_id TEXT PRIMARY KEY,
    name         TEXT NOT NULL UNIQUE,
    create_time  BIGINT NOT NULL
);

-- Bearer tokens: only the hash of each.
CREATE TABLE token (
    token_id     TEXT PRIMARY KEY,
    kind         TEXT NOT NULL CHECK (kind IN ('workspace', 'worker', 'admin')),
    workspace_id TEXT REFERENCES workspace,
    node         TEXT,                      -- of a worker's: the only node that may use it
    hash         BLOB NOT NULL UNIQUE,      -- SHA-256
    create_time  BIGINT NOT NULL,
    expire_time  BIGINT,
    CHECK ((kind = 'workspace') = (workspace_id IS NOT NULL))
);
CREATE INDEX token_by_workspace ON token (workspace_id, token_id);

-- Data keys, wrapped by the key encryption key that `kek_id` names. At most one of a workspace is current.
CREATE TABLE data_key (
    key_id       TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspace,
    kek_id       TEXT NOT NULL,
    wrapped      BLOB NOT NULL,
    current      BIGINT NOT NULL,           -- 1: seals new records; 0: opens old ones only
    create_time  BIGINT NOT NULL
);
CREATE UNIQUE INDEX data_key_current ON data_key (workspace_id) WHERE current = 1;
CREATE INDEX data_key_by_kek ON data_key (kek_id);

-- `name` is for people, `secret_id` is the identity. `registry` is empty for plain values; a workspace has one secret a registry.
CREATE TABLE secret (
    secret_id    TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspace,
    name         TEXT NOT NULL,
    registry     TEXT NOT NULL,
    version      BIGINT NOT NULL,
    key_id       TEXT NOT NULL REFERENCES data_key,
    record       BLOB NOT NULL,             -- version | nonce | ciphertext | tag
    create_time  BIGINT NOT NULL,
    update_time  BIGINT NOT NULL,
    UNIQUE (workspace_id, name, registry)
);
CREATE INDEX secret_by_key ON secret (key_id);
CREATE UNIQUE INDEX secret_by_registry ON secret (workspace_id, registry) WHERE registry <> '';

-- The newest version of each secret, apart from it: a row of `secret` that was rolled back does not open.
CREATE TABLE secret_version (
    secret_id TEXT PRIMARY KEY,
    version   BIGINT NOT NULL
);

-- Clip indexes by their content; shared by images that are the same.
CREATE TABLE clip_index (
    index_digest TEXT PRIMARY KEY,          -- BLAKE3, hex
    index_bytes  BIGINT NOT NULL,
    pieces       BIGINT NOT NULL,
    complete     BIGINT NOT NULL,
    create_time  BIGINT NOT NULL
);

CREATE TABLE clip_index_piece (
    index_digest TEXT NOT NULL REFERENCES clip_index ON DELETE CASCADE,
    position     BIGINT NOT NULL,
    data         BLOB NOT NULL,             -- at most 512 KiB
    PRIMARY KEY (index_digest, position)
);

CREATE TABLE image (
    workspace_id           TEXT NOT NULL REFERENCES workspace,
    image_id               TEXT NOT NULL,
    base_image             TEXT NOT NULL,
    registry               TEXT NOT NULL,
    digest                 TEXT NOT NULL,   -- of the platform's manifest
    platform               TEXT NOT NULL,
    credential_secret_name TEXT,
    credential_secret_id   TEXT,            -- may name a secret that was deleted: then nothing runs
    index_digest           TEXT NOT NULL REFERENCES clip_index,
    image_bytes            BIGINT NOT NULL,
    index_bytes            BIGINT NOT NULL,
    files                  BIGINT NOT NULL,
    create_time            BIGINT NOT NULL,
    update_time            BIGINT NOT NULL,
    PRIMARY KEY (workspace_id, image_id)
);
CREATE INDEX image_by_secret ON image (credential_secret_id) WHERE credential_secret_id IS NOT NULL;
CREATE INDEX image_by_index ON image (index_digest);
CREATE INDEX image_by_digest ON image (digest);

-- Names of secrets whose values become the credentials when a container of the image starts.
CREATE TABLE image_secret (
    workspace_id TEXT NOT NULL,
    image_id     TEXT NOT NULL,
    position     BIGINT NOT NULL,
    name         TEXT NOT NULL,
    PRIMARY KEY (workspace_id, image_id, position),
    FOREIGN KEY (workspace_id, image_id) REFERENCES image ON DELETE CASCADE
);
CREATE INDEX image_secret_by_name ON image_secret (workspace_id, name);

-- Nodes. Free = total less what is reserved by containers that are dispatched to it.
CREATE TABLE worker (
    worker_id      TEXT PRIMARY KEY,
    node           TEXT NOT NULL UNIQUE,
    epoch          BIGINT NOT NULL,         -- counts registrations and losses
    beat           BIGINT NOT NULL,         -- counts heartbeats: one that does not move is lost
    live           BIGINT NOT NULL,
    draining       BIGINT NOT NULL,
    pool_selector  TEXT NOT NULL,
    gpu            TEXT NOT NULL,
    total_cpu      BIGINT NOT NULL,         -- millicores
    total_memory   BIGINT NOT NULL,         -- MiB
    total_gpu      BIGINT NOT NULL,
    free_cpu       BIGINT NOT NULL,
    free_memory    BIGINT NOT NULL,
    free_gpu       BIGINT NOT NULL,
    containers     BIGINT NOT NULL,
    version        TEXT NOT NULL,
    create_time    BIGINT NOT NULL,
    heartbeat_time BIGINT NOT NULL          -- for people; expiry counts beats
);
-- Those with GPUs apart: what needs none goes to them last.
CREATE INDEX worker_fit ON worker (pool_selector, free_cpu, free_memory) WHERE live = 1 AND draining = 0 AND total_gpu = 0;
CREATE INDEX worker_fit_gpu ON worker (pool_selector, free_gpu, free_cpu, free_memory, gpu)
    WHERE live = 1 AND draining = 0 AND total_gpu > 0;

CREATE TABLE worker_image (
    worker_id TEXT NOT NULL REFERENCES worker ON DELETE CASCADE,
    digest    TEXT NOT NULL,
    PRIMARY KEY (digest, worker_id)
);
CREATE INDEX worker_image_by_worker ON worker_image (worker_id);

CREATE TABLE container (
    workspace_id  TEXT NOT NULL REFERENCES workspace,
    container_id  TEXT NOT NULL,
    image_id      TEXT NOT NULL,
    request       TEXT NOT NULL,            -- ContainerRequest as JSON, never with credentials
    digest        TEXT NOT NULL,            -- of the image, for locality
    state         TEXT NOT NULL CHECK (state IN ('queued', 'scheduled', 'mounting', 'running', 'exited', 'failed')),
    attempt       BIGINT NOT NULL,          -- counts dispatches
    fencing_token BIGINT NOT NULL,          -- of the newest dispatch; 0 = none
    worker_id     TEXT REFERENCES worker,
    cpu           BIGINT NOT NULL,
    memory        BIGINT NOT NULL,
    gpu           TEXT NOT NULL,
    gpu_count     BIGINT NOT NULL,
    pool_selector TEXT NOT NULL,
    queue_time    BIGINT NOT NULL,          -- order in the queue; not before it
    parked        BIGINT NOT NULL,          -- 1: fits nowhere, waits for capacity
    waiting       TEXT NOT NULL,
    stop_asked    BIGINT NOT NULL,
    exit_code     BIGINT NOT NULL,
    reason        TEXT NOT NULL,
    reason_code   BIGINT NOT NULL,
    cost          TEXT NOT NULL,            -- StartCost as JSON; empty = unknown
    log_bytes     BIGINT NOT NULL,
    create_time   BIGINT NOT NULL,
    start_time    BIGINT,
    end_time      BIGINT,
    PRIMARY KEY (workspace_id, container_id)
);
CREATE INDEX container_ready ON container (queue_time) WHERE state = 'queued' AND parked = 0;
-- With what they need, so that those that do not fit are passed over within the index.
CREATE INDEX container_parked ON container (pool_selector, queue_time, cpu, memory, gpu_count, gpu)
    WHERE state = 'queued' AND parked = 1;
CREATE INDEX container_by_worker ON container (worker_id) WHERE state IN ('scheduled', 'mounting', 'running');
CREATE INDEX container_by_image ON container (workspace_id, image_id) WHERE state IN ('scheduled', 'mounting', 'running');
CREATE INDEX container_by_time ON container (workspace_id, create_time, container_id);
CREATE INDEX container_active ON container (workspace_id, create_time, container_id) WHERE end_time IS NULL;
CREATE INDEX container_ended ON container (end_time) WHERE end_time IS NOT NULL;

-- The source of fencing tokens.
CREATE TABLE fencing (
    one   BIGINT PRIMARY KEY CHECK (one = 1),
    token BIGINT NOT NULL
);
INSERT INTO fencing VALUES (1, 0);

-- What workers must be told: committed with what made it necessary, sent at least once, gone when it is acknowledged.
CREATE TABLE outbox (
    delivery      INTEGER PRIMARY KEY AUTOINCREMENT,
    worker_id     TEXT NOT NULL REFERENCES worker,
    kind          TEXT NOT NULL CHECK (kind IN ('dispatch', 'cancel', 'credentials')),
    workspace_id  TEXT NOT NULL,
    container_id  TEXT NOT NULL,
    attempt       BIGINT NOT NULL,
    fencing_token BIGINT NOT NULL,
    create_time   BIGINT NOT NULL
);
CREATE INDEX outbox_by_worker ON outbox (worker_id, delivery);
CREATE INDEX outbox_by_container ON outbox (workspace_id, container_id);

CREATE TABLE event (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    workspace_id TEXT NOT NULL,
    container_id TEXT NOT NULL,
    time         BIGINT NOT NULL,
    container    TEXT NOT NULL              -- the container as it was then, as JSON
);
CREATE INDEX event_by_container ON event (workspace_id, container_id, seq);

CREATE TABLE log (
    workspace_id TEXT NOT NULL,
    container_id TEXT NOT NULL,
    attempt      BIGINT NOT NULL,
    position     BIGINT NOT NULL,           -- offset in the attempt's output
    stream       BIGINT NOT NULL,           -- 1 stdout, 2 stderr
    time         BIGINT NOT NULL,
    data         BLOB NOT NULL,
    PRIMARY KEY (workspace_id, container_id, attempt, position)
);

-- Outcomes of changes by the caller's key: a retry gets the first outcome.
CREATE TABLE idempotency (
    scope        TEXT NOT NULL,             -- the caller's workspace, or its token where it has none
    key          TEXT NOT NULL,
    method       TEXT NOT NULL,
    request_hash BLOB NOT NULL,             -- SHA-256
    outcome      TEXT NOT NULL,             -- JSON, never a value
    create_time  BIGINT NOT NULL,
    PRIMARY KEY (scope, key)
);
CREATE INDEX idempotency_by_time ON idempotency (create_time);

CREATE TABLE audit (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    time         BIGINT NOT NULL,
    actor        TEXT NOT NULL,             -- id of a token, or a part of the control plane
    workspace_id TEXT,
    action       TEXT NOT NULL,
    target       TEXT NOT NULL,
    result       TEXT NOT NULL              -- 'ok', or a code and why
);
CREATE INDEX audit_by_workspace ON audit (workspace_id, seq);
