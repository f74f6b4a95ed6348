package main

import "context"

func (e *environment) profile(context.Context, peer, setting) {}
