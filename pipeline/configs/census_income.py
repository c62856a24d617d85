"""Census income (KDD): who earns more than 50,000 dollars, and who has never married.

Tasks and features are those of Ma et al. (KDD 2018, group 1). The data are the official test half,
99,762 rows without a header:

    python -m pipeline.local_runner --config census_income --data path/to/census_income

`instance_weight` is the number of people that a row represents. We do not use it, as in the paper.
"""

from tfmtl.data.readers import Source
from tfmtl.declare.experiment import Evaluation, ExperimentConfig, Model, Training
from tfmtl.declare.problem import ProblemSpec, binary, categorical, numerical
from tfmtl.declare.split import by_row_number

COLUMNS = (
    "age class_worker det_ind_code det_occ_code education wage_per_hour hs_college marital_stat "
    "major_ind_code major_occ_code race hisp_origin sex union_member unemp_reason "
    "full_or_part_emp capital_gains capital_losses stock_dividends tax_filer_stat "
    "region_prev_res state_prev_res det_hh_fam_stat det_hh_summ instance_weight mig_chg_msa "
    "mig_chg_reg mig_move_reg mig_same mig_prev_sunbelt num_emp fam_under_18 country_father "
    "country_mother country_self citizenship own_or_self vet_question vet_benefits weeks_worked "
    "year income"
).split()
NUMBERS = (
    numerical("age", side="user", encoding="piecewise", bins=32),
    numerical("weeks_worked", side="user", encoding="piecewise", bins=16),
    numerical("num_emp", side="user", encoding="piecewise", bins=8),
    # Mostly zero with a long tail: in quantile bins, nearly all rows would be in the same bin.
    numerical("wage_per_hour", side="user", encoding="log"),
    numerical("capital_gains", side="user", encoding="quantile", bins=64),
    numerical("capital_losses", side="user", encoding="quantile", bins=64),
    numerical("stock_dividends", side="user", encoding="quantile", bins=64),
)
LEFT_OUT = ("instance_weight", "income", "marital_stat", *(f.column for f in NUMBERS))

# "NA" is a valid answer (of `hisp_origin`); only "?" marks a missing value.
SOURCE = Source(column_names=COLUMNS, delimiter=", ", null_values=("?",))

PROBLEM = ProblemSpec(
    features=(
        *NUMBERS,
        # Industry, occupation, employment and year are codes: numbers without an order.
        *(categorical(name, side="user") for name in COLUMNS if name not in LEFT_OUT),
    ),
    tasks=(
        binary("income50k", label="income", positive="50000+."),
        binary("never_married", label="marital_stat", positive="Never married"),
    ),
    space="person",
)

EXPERIMENT = ExperimentConfig(
    name="census_income",
    problem=PROBLEM,
    split=by_row_number(shares=(0.6, 0.2, 0.2), modulo=10),
    model=Model(
        backbone={"name": "mmoe", "num_experts": 8, "expert_units": (64, 32)},
        dim=8,
        tower_units=(32,),
        l2=1e-5,
    ),
    training=Training(epochs=8, batch_size=512, learning_rate=3e-3, decay="cosine"),
    evaluation=Evaluation(
        slices=("sex", "year"),
        bounds={
            "income50k/auc@person": 0.93,
            "income50k/calibration@person": (0.85, 1.15),
            "never_married/auc@person": 0.98,
            "never_married/calibration@person": (0.9, 1.1),
        },
        slice_bounds={"income50k/auc@person": 0.88, "never_married/auc@person": 0.97},
    ),
)
