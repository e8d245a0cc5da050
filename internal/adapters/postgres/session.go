package postgres

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/docket-project/docket/internal/domain"
)

// How transactions begin. A role or database may have another isolation level by default: under serializable, batches
// that share nothing end each other.
const (
	begin         = "BEGIN ISOLATION LEVEL READ COMMITTED"
	beginReadOnly = begin + " READ ONLY"
)

// pinned are the settings of every session, whatever a role, a database or the URL says. They are sent as a connection
// begins, and are those that a pooler in transaction mode passes on.
var pinned = map[string]string{
	"client_encoding":             "UTF8",
	"DateStyle":                   "ISO",
	"TimeZone":                    "UTC",
	"standard_conforming_strings": "on",
}

// access is what a pool's connections are for.
type access bool

const (
	reads  access = false
	writes access = true
)

// pool makes a pool that connects when it is first used. With kept, it has that many connections at most and makes them
// ahead; otherwise the URL says how many, or defaultPool.
func (s *Store) pool(a access, kept int32) (*pgxpool.Pool, error) {
	setting, text := "DOCKET_DATABASE_URL", s.opts.URL
	if a == reads && s.opts.SearchURL != "" {
		setting, text = "DOCKET_SEARCH_DATABASE_URL", s.opts.SearchURL
	}
	address, _, _ := strings.Cut(text, "?") // a parameter may have one
	if strings.Contains(address, "://") && strings.Count(address, "@") > 1 {
		return nil, badURL(setting, errManyAts)
	}
	config, err := pgxpool.ParseConfig(text)
	if err != nil {
		return nil, badURL(setting, err)
	}
	if kept > 0 {
		config.MaxConns, config.MinConns = kept, kept
	} else if config.MaxConns == defaultOfPgx() {
		config.MaxConns = defaultPool
	}
	if config.ConnConfig.DefaultQueryExecMode == pgx.QueryExecModeCacheStatement {
		// Unnamed statements whose description is remembered: binary arrays in one round trip, and no prepared statement
		// that a pooler would have to know.
		config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = connectTimeout
	}
	config.ConnConfig.ValidateConnect = validate(a)
	pin(config.ConnConfig.RuntimeParams)
	config.MaxConnLifetime = maxConnectionLifetime
	config.MaxConnLifetimeJitter = maxConnectionLifetime / 10
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		return nil, badURL(setting, err)
	}
	return pool, nil
}

// pin sets what is pinned, and names docket unless the URL has another name. Parameters' names know no case.
func pin(params map[string]string) {
	for name := range params {
		for ours := range pinned {
			if strings.EqualFold(name, ours) {
				delete(params, name)
			}
		}
	}
	for name, value := range pinned {
		params[name] = value
	}
	if params["application_name"] == "" {
		params["application_name"] = "docket"
	}
}

// validate looks at a server before it is used. What is stored has to come back byte for byte, and only UTF8 can hold
// every character; the server says its encoding as the connection begins, and a pooler repeats it.
func validate(a access) pgconn.ValidateConnectFunc {
	return func(ctx context.Context, conn *pgconn.PgConn) error {
		if encoding := conn.ParameterStatus("server_encoding"); encoding != "" && encoding != "UTF8" {
			return domain.Errorf(
				domain.Misconfigured, "the database has the encoding %s, which cannot hold every event: create one with "+
					"CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, and name it in DOCKET_DATABASE_URL", encoding,
			)
		}
		if a == reads {
			return nil
		}
		return pgconn.ValidateConnectTargetSessionAttrsReadWrite(ctx, conn)
	}
}

// defaultOfPgx is what pgxpool takes where the URL does not say pool_max_conns.
var defaultOfPgx = sync.OnceValue(func() int32 {
	config, err := pgxpool.ParseConfig("host=localhost")
	if err != nil {
		return 0
	}
	return config.MaxConns
})

// errManyAts is a URL that the parser may read, with a part of the password as the host or the database, which every
// message about the connection would show.
var errManyAts = errors.New("there is more than one @ in it")

// badURL explains a connection string without quoting it or what its parser says of it: that may be a part of the
// password. A file that it names is none.
func badURL(setting string, err error) error {
	text := "it is no connection string such as postgres://user@host:5432/docket?sslmode=verify-full; in a URL, every " +
		"character of a password but letters and digits has to be percent-encoded (@ is %40, # is %23, / is %2F)"
	var file *fs.PathError
	if errors.As(err, &file) {
		text = file.Error()
	}
	return &domain.Error{Class: domain.Misconfigured, Op: "read " + setting, Text: text}
}
