package evlog

import (
	"encoding/json"
	"errors"
	"fmt"
)

// ReceiptID is the receipt's id in a receipt record, without verifying anything.
func ReceiptID(payload []byte) (string, error) {
	var e struct {
		Payload struct {
			ReceiptID string `json:"receipt_id"`
		} `json:"payload"`
	}
	if err := json.Unmarshal(payload, &e); err != nil {
		return "", fmt.Errorf("receipt record: %w", err)
	}
	if e.Payload.ReceiptID == "" {
		return "", errors.New("receipt record without a receipt_id")
	}
	return e.Payload.ReceiptID, nil
}
