-- A store of schema version 1 in PostgreSQL, as pg_dump wrote it; store_v1.db has the same rows.
CREATE TABLE public.about (
    version integer NOT NULL
);
CREATE SEQUENCE public.about_version_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.about_version_seq OWNED BY public.about.version;
CREATE TABLE public.events (
    number bigint NOT NULL,
    event_id text NOT NULL,
    user_id text NOT NULL,
    item_id text NOT NULL,
    event_type text NOT NULL,
    "timestamp" bigint NOT NULL,
    value double precision,
    session_id text,
    request_id text,
    "position" integer
);
CREATE SEQUENCE public.events_number_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.events_number_seq OWNED BY public.events.number;
CREATE TABLE public.forgotten (
    user_id text NOT NULL
);
CREATE TABLE public.item_changes (
    number bigint NOT NULL,
    item_id text NOT NULL,
    body json
);
CREATE SEQUENCE public.item_changes_number_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.item_changes_number_seq OWNED BY public.item_changes.number;
CREATE TABLE public.keys (
    key_id text NOT NULL,
    name text NOT NULL,
    digest text NOT NULL,
    scopes text NOT NULL,
    created bigint NOT NULL,
    revoked bigint
);
CREATE TABLE public.lists (
    request_id text NOT NULL,
    user_id text,
    "timestamp" bigint NOT NULL,
    model text NOT NULL,
    items json NOT NULL,
    scores json NOT NULL,
    propensities json NOT NULL
);
ALTER TABLE ONLY public.about ALTER COLUMN version SET DEFAULT nextval('public.about_version_seq'::regclass);
ALTER TABLE ONLY public.events ALTER COLUMN number SET DEFAULT nextval('public.events_number_seq'::regclass);
ALTER TABLE ONLY public.item_changes ALTER COLUMN number SET DEFAULT nextval('public.item_changes_number_seq'::regclass);
INSERT INTO public.about VALUES (1);
INSERT INTO public.events VALUES (1, 'e1', 'anna', 'lamp', 'click', 1700000000000000, NULL, 's1', 'r1', 1);
INSERT INTO public.events VALUES (2, 'e2', 'anna', 'sofa', 'purchase', 1700000000500000, 249.5, 's1', 'r1', 2);
INSERT INTO public.events VALUES (3, 'ø3', 'ユーザー', 'lamp', 'like', 1700000001000000, 4.5, NULL, NULL, NULL);
INSERT INTO public.events VALUES (4, 'e4', 'bert', 'rug', 'impression', 1700000002000000, NULL, NULL, 'r2', 1);
INSERT INTO public.forgotten VALUES ('gone');
INSERT INTO public.item_changes VALUES (1, 'lamp', '{"title": "Red lamp", "tags": ["new", "red"], "price": 19.0}');
INSERT INTO public.item_changes VALUES (3, 'sofa', NULL);
INSERT INTO public.item_changes VALUES (4, 'rug', '{"title": "Blue rug"}');
INSERT INTO public.keys VALUES ('1a2b3c4d', 'shop', '0000000000000000000000000000000000000000000000000000000000000000', 'read,write', 1700000000000000, NULL);
INSERT INTO public.keys VALUES ('5e6f7a8b', 'old job', 'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff', 'admin', 1700000000000001, 1795621995032073);
INSERT INTO public.lists VALUES ('r1', 'anna', 1699999999000000, 'recsys/1', '["lamp", "sofa", "rug"]', '[3.0, 2.0, 1.5]', '[null, 0.05, null]');
INSERT INTO public.lists VALUES ('r2', NULL, 1700000001500000, 'recsys/2', '["rug"]', '[0.5]', '[null]');
SELECT pg_catalog.setval('public.about_version_seq', 1, false);
SELECT pg_catalog.setval('public.events_number_seq', 5, true);
SELECT pg_catalog.setval('public.item_changes_number_seq', 4, true);
ALTER TABLE ONLY public.about
    ADD CONSTRAINT about_pkey PRIMARY KEY (version);
ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_event_id_key UNIQUE (event_id);
ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_pkey PRIMARY KEY (number);
ALTER TABLE ONLY public.forgotten
    ADD CONSTRAINT forgotten_pkey PRIMARY KEY (user_id);
ALTER TABLE ONLY public.item_changes
    ADD CONSTRAINT item_changes_pkey PRIMARY KEY (number);
ALTER TABLE ONLY public.keys
    ADD CONSTRAINT keys_pkey PRIMARY KEY (key_id);
ALTER TABLE ONLY public.lists
    ADD CONSTRAINT lists_pkey PRIMARY KEY (request_id);
CREATE INDEX events_of_user ON public.events USING btree (user_id, "timestamp", number);
CREATE INDEX ix_item_changes_item_id ON public.item_changes USING btree (item_id);
CREATE INDEX ix_lists_timestamp ON public.lists USING btree ("timestamp");
CREATE INDEX ix_lists_user_id ON public.lists USING btree (user_id);
