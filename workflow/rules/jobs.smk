# One rule per kind of job, from the table in workflow/jobs.py.

for STAGE in JOBS.stages:

    rule:
        name:
            STAGE.name
        input:
            stamped(STAGE),
            sources(STAGE),
            choice(STAGE),
            JOBS.inputs(STAGE),
        output:
            list(outputs(STAGE)),
        log:
            JOBS.log(STAGE, ".log"),
        benchmark:
            JOBS.log(STAGE, ".tsv")
        wildcard_constraints:
            name=one_of(JOBS.names(STAGE)),
            shard=one_of(JOBS.shards(STAGE)),
        priority: STAGE.priority
        localrule: STAGE.local
        threads: THREADS
        resources:
            **STAGE.resources,
        params:
            command=command(STAGE),
        shell:
            "{params.command} > {log} 2>&1"
