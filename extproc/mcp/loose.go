package mcp

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// scan visits the members of a JSON object of a server's. It is less strict than what clients send is read with, since answers
// hold what servers keep, such as numbers beyond 2^53; but a key that comes twice is an error here too: two readers would see
// two different answers.
func scan(object []byte, visit func(key string, value json.RawMessage)) error {
	dec := json.NewDecoder(bytes.NewReader(object))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return fmt.Errorf("%w: not a JSON object (%w)", ErrAnswer, orNil(err))
	}
	seen := map[string]bool{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return fmt.Errorf("%w: %w", ErrAnswer, err)
		}
		key, _ := t.(string)
		if seen[key] {
			return fmt.Errorf("%w: the member %.64q comes twice", ErrAnswer, key)
		}
		seen[key] = true
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return fmt.Errorf("%w: %w", ErrAnswer, err)
		}
		visit(key, value)
	}
	if _, err := dec.Token(); err != nil {
		return fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	if len(bytes.Trim(object[dec.InputOffset():], " \t\r\n")) > 0 {
		return fmt.Errorf("%w: something follows the message", ErrAnswer)
	}
	return nil
}

// orNil stands for no error where one is shown.
func orNil(err error) error {
	if err == nil {
		return errOther
	}
	return err
}
