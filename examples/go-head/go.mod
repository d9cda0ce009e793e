module example.com/go-head

go 1.26.0
