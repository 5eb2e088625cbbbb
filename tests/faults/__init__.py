"""The fault harness, `bash launch/faults.sh`: runs are struck, started again, and compared with runs that were not.

`scene` is the place, `injection` one fault and what follows, `checks` the comparison; `process_faults`, `file_faults`,
`data_faults`, `number_faults` and `place_faults` are the classes. `faulty_rank` is the program of a rank that is to be
struck from within, at a place (`places`) and in a way (`strikes`) that a `fault` names.
"""
