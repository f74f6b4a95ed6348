package ca

import "time"

// bucket holds what may be signed at once; it fills with time.
type bucket struct {
	left float64
	at   time.Time
}

// take takes one leaf from the bucket, if there is one.
func (a *Authority) take(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	b := &a.bucket
	if passed := now.Sub(b.at); passed > 0 {
		b.left = min(float64(a.cfg.Burst), b.left+passed.Seconds()*a.cfg.Rate)
		b.at = now
	}
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}
