"""The rules, one a module; `batchnorm.doctor.rule` says what a module has to have."""
