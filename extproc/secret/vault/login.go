package vault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/openbao/openbao/api/v2"

	"sallyport/extproc/secret"
	"sallyport/extproc/secret/internal/remote"
)

// with does one thing at the server, logged in. Where the server knows the login no more (it was restarted, or somebody
// revoked it), it logs in anew and tries once again. It says which login it used.
func (s *Source) with(ctx context.Context, do func(*api.Client) error) (login, error) {
	l, err := s.loggedIn(ctx, false)
	if err != nil {
		return login{}, err
	}
	if err = do(s.as(l.token)); status(err) == http.StatusForbidden && s.token == nil {
		if l, err = s.loggedIn(ctx, true); err != nil {
			return login{}, err
		}
		err = do(s.as(l.token))
	}
	return l, plain(err)
}

// as is the client with a token. Clients share their connections.
func (s *Source) as(token secret.Value) *api.Client {
	c := s.client.WithNamespace(s.cfg.Namespace)
	c.SetToken(token.Reveal())
	return c
}

// loggedIn is the login at hand while it is good, else a new one. Logins wait for each other: one is enough.
func (s *Source) loggedIn(ctx context.Context, refused bool) (login, error) {
	if s.token != nil {
		c, err := s.token.Fetch(ctx)
		if err != nil {
			return login{}, fmt.Errorf("token_file: %w", err)
		}
		return login{token: c.Value}, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now()
	if !refused && !s.login.token.Empty() && (s.login.renewAt.IsZero() || now.Before(s.login.renewAt)) {
		return s.login, nil
	}
	path, data, err := s.loginRequest(ctx)
	if err != nil {
		return login{}, err
	}
	got, err := s.as(secret.Value{}).Logical().WriteWithContext(ctx, path, data)
	if err != nil {
		return login{}, fmt.Errorf("login at %s: %w", path, plain(err))
	}
	if got == nil || got.Auth == nil || got.Auth.ClientToken == "" {
		return login{}, fmt.Errorf("login at %s: the answer holds no token", path)
	}
	s.login = login{token: secret.NewValue(got.Auth.ClientToken)}
	if life := seconds(got.Auth.LeaseDuration); life > 0 {
		s.login.ends, s.login.renewAt = now.Add(life), now.Add(life/5*4)
	}
	return s.login, nil
}

func (s *Source) loginRequest(ctx context.Context) (path string, data map[string]any, err error) {
	if a := s.cfg.Auth.AppRole; a != nil {
		id, err := secret.File(a.SecretIDFile).Fetch(ctx)
		if err != nil {
			return "", nil, fmt.Errorf("secret_id_file: %w", err)
		}
		return "auth/" + or(a.Mount, DefaultAppRoleMount) + "/login", map[string]any{"role_id": a.RoleID, "secret_id": id.Value.Reveal()}, nil
	}
	j := s.cfg.Auth.JWT
	token, err := secret.File(j.File).Fetch(ctx)
	if err != nil {
		return "", nil, fmt.Errorf("jwt_file: %w", err)
	}
	return "auth/" + or(j.Mount, DefaultKubernetesMount) + "/login", map[string]any{"role": j.Role, "jwt": token.Value.Reveal()}, nil
}

// bound ends a lease with the login by which it was taken, since that is when the server ends it.
func (l login) bound(end time.Time) time.Time {
	if !l.ends.IsZero() && l.ends.Before(end) {
		return l.ends
	}
	return end
}

func status(err error) int {
	var answered *api.ResponseError
	if errors.As(err, &answered) {
		return answered.StatusCode
	}
	return 0
}

// plain says what went wrong without a word of the answer, which may hold the credential.
func plain(err error) error {
	switch code := status(err); {
	case err == nil:
		return nil
	case code == http.StatusServiceUnavailable:
		return errors.New("the server is sealed, in standby or starting (503)")
	case code == http.StatusForbidden:
		return errors.New("the server refuses this login the path (403)")
	case code != 0:
		return fmt.Errorf("the server answered with status %d", code)
	case errors.Is(err, secret.ErrWithdrawn), errors.Is(err, errEmpty):
		return err
	}
	return remote.Reason(err)
}
