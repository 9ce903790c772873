module bench.test/sink

go 1.24.0
