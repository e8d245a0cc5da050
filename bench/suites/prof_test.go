package suites
import ("testing";"os";"runtime/pprof")
func TestProf(t *testing.T){ f,_:=os.Create("/tmp/w/save18.prof"); pprof.StartCPUProfile(f); defer pprof.StopCPUProfile(); if err:=StoreSuite(200000,"shipped",false,"/tmp/w/store18");err!=nil{t.Fatal(err)} }
